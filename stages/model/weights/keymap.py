"""Key maps: from the tensor names of upstream checkpoints to the parameter names of our networks.

A line of a table holds a tensor's name in the checkpoint and its name in the network. `*` matches one part of a dotted name, `**` all remaining
parts; both are copied to the target. A line with several targets splits the tensor into that many equal chunks along its first axis. A line
without targets skips the tensor on purpose. A name that no line matches is unknown.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

Targets = tuple[str, ...]
Translate = Callable[[str], Targets | None]
"""Maps a checkpoint's tensor name to names in the network: one, one per chunk, or none if the tensor is skipped; None if the name is unknown."""

Table = Mapping[str, str | Targets]

TRANSFORMER: Table = {
    "patch_embedding.*": "patch_embedding.*",
    "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
    "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
    "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
    "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
    "time_projection.1.*": "condition_embedder.time_proj.*",
    "img_emb.proj.0.*": "condition_embedder.image_embedder.norm1.*",
    "img_emb.proj.1.*": "condition_embedder.image_embedder.ff.net.0.proj.*",
    "img_emb.proj.3.*": "condition_embedder.image_embedder.ff.net.2.*",
    "img_emb.proj.4.*": "condition_embedder.image_embedder.norm2.*",
    "audio_proj.*.*": "audio_proj.*.*",
    "blocks.*.modulation": "blocks.*.scale_shift_table",
    "blocks.*.self_attn.q.*": "blocks.*.attn1.to_q.*",
    "blocks.*.self_attn.k.*": "blocks.*.attn1.to_k.*",
    "blocks.*.self_attn.v.*": "blocks.*.attn1.to_v.*",
    "blocks.*.self_attn.o.*": "blocks.*.attn1.to_out.0.*",
    "blocks.*.self_attn.norm_q.*": "blocks.*.attn1.norm_q.*",
    "blocks.*.self_attn.norm_k.*": "blocks.*.attn1.norm_k.*",
    "blocks.*.norm3.*": "blocks.*.norm2.*",  # diffusers counts the norms in the order of use
    "blocks.*.cross_attn.q.*": "blocks.*.attn2.to_q.*",
    "blocks.*.cross_attn.k.*": "blocks.*.attn2.to_k.*",
    "blocks.*.cross_attn.v.*": "blocks.*.attn2.to_v.*",
    "blocks.*.cross_attn.o.*": "blocks.*.attn2.to_out.0.*",
    "blocks.*.cross_attn.norm_q.*": "blocks.*.attn2.norm_q.*",
    "blocks.*.cross_attn.norm_k.*": "blocks.*.attn2.norm_k.*",
    "blocks.*.cross_attn.k_img.*": "blocks.*.attn2.add_k_proj.*",
    "blocks.*.cross_attn.v_img.*": "blocks.*.attn2.add_v_proj.*",
    "blocks.*.cross_attn.norm_k_img.*": "blocks.*.attn2.norm_added_k.*",
    "blocks.*.norm_x.*": "blocks.*.norm_x.*",
    "blocks.*.audio_cross_attn.*.*": "blocks.*.audio_cross_attn.*.*",
    "blocks.*.ffn.0.*": "blocks.*.ffn.net.0.proj.*",
    "blocks.*.ffn.2.*": "blocks.*.ffn.net.2.*",
    "head.modulation": "scale_shift_table",
    "head.head.*": "proj_out.*",
}
"""From the names of Wan2.1 and InfiniteTalk to those of diffusers. (diffusers' own converter renames substrings, which maps audio attention to text
attention.)"""

TEXT: Table = {
    "token_embedding.weight": "shared.weight",
    "blocks.*.norm1.weight": "encoder.block.*.layer.0.layer_norm.weight",
    "blocks.*.attn.*.weight": "encoder.block.*.layer.0.SelfAttention.*.weight",
    "blocks.*.pos_embedding.embedding.weight": "encoder.block.*.layer.0.SelfAttention.relative_attention_bias.weight",
    "blocks.*.norm2.weight": "encoder.block.*.layer.1.layer_norm.weight",
    "blocks.*.ffn.gate.0.weight": "encoder.block.*.layer.1.DenseReluDense.wi_0.weight",
    "blocks.*.ffn.fc1.weight": "encoder.block.*.layer.1.DenseReluDense.wi_1.weight",
    "blocks.*.ffn.fc2.weight": "encoder.block.*.layer.1.DenseReluDense.wo.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}

IMAGE: Table = {
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.patch_embedding.weight": "embeddings.patch_embedding.weight",
    "visual.pre_norm.*": "pre_layrnorm.*",  # as transformers spells it
    "visual.transformer.*.norm1.*": "encoder.layers.*.layer_norm1.*",
    "visual.transformer.*.attn.to_qkv.*": (
        "encoder.layers.*.self_attn.q_proj.*",
        "encoder.layers.*.self_attn.k_proj.*",
        "encoder.layers.*.self_attn.v_proj.*",
    ),
    "visual.transformer.*.attn.proj.*": "encoder.layers.*.self_attn.out_proj.*",
    "visual.transformer.*.norm2.*": "encoder.layers.*.layer_norm2.*",
    "visual.transformer.*.mlp.0.*": "encoder.layers.*.mlp.fc1.*",
    "visual.transformer.*.mlp.2.*": "encoder.layers.*.mlp.fc2.*",
    "visual.post_norm.*": "post_layernorm.*",
    "visual.head": (),
    "log_scale": (),
    "textual.**": (),
}

RESIDUAL = {
    "residual.0.gamma": "norm1.gamma",
    "residual.2.*": "conv1.*",
    "residual.3.gamma": "norm2.gamma",
    "residual.6.*": "conv2.*",
    "shortcut.*": "conv_shortcut.*",
}
RESAMPLE = {"resample.1.*": "resample.1.*", "time_conv.*": "time_conv.*"}
ATTENTION = {"norm.gamma": "norm.gamma", "to_qkv.*": "to_qkv.*", "proj.*": "proj.*"}

CODEC: Table = {
    "conv1.*": "quant_conv.*",
    "conv2.*": "post_quant_conv.*",
    "*.conv1.*": "*.conv_in.*",
    "*.head.0.gamma": "*.norm_out.gamma",
    "*.head.2.*": "*.conv_out.*",
} | {
    f"{theirs}.{their_part}": f"{ours}.{our_part}"
    for theirs, ours, parts in (
        ("*.middle.0", "*.mid_block.resnets.0", RESIDUAL),
        ("*.middle.1", "*.mid_block.attentions.0", ATTENTION),
        ("*.middle.2", "*.mid_block.resnets.1", RESIDUAL),
        ("encoder.downsamples.*", "encoder.down_blocks.*", RESIDUAL | RESAMPLE),
        ("decoder.upsamples.*", "decoder.upsamples.*", RESIDUAL | RESAMPLE),  # renumbered by `codec_translator`
    )
    for their_part, our_part in parts.items()
}

SAVED_TEXT: Table = {"encoder.embed_tokens.weight": "shared.weight", "**": "**"}

SAVED_IMAGE: Table = {
    "visual_projection.**": (),
    "vision_model.embeddings.position_ids": (),
    "vision_model.**": "**",
    "**": "**",
}
"""Before version 5 transformers added a prefix to the names of the vision tower."""

SAVED_SPEECH: Table = {
    "quantizer.**": (),
    "project_q.**": (),
    "project_hid.**": (),
    "lm_head.**": (),
    "masked_spec_embed": (),
    "wav2vec2.masked_spec_embed": (),
    "wav2vec2.encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "wav2vec2.encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    "wav2vec2.**": "**",
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    "**": "**",
}
"""wav2vec2 as saved from pretraining or with a head, and with the weight norm of older torch versions."""

IDENTITY: Table = {"**": "**"}
"""For checkpoints that use the network's own names."""


def translator(table: Table) -> Translate:
    """The translation by `table`; the first line that matches a name applies."""
    lines = [(re.compile(name_regex(theirs)), (ours,) if isinstance(ours, str) else ours) for theirs, ours in table.items()]

    def translate(name: str) -> Targets | None:
        for theirs, ours in lines:
            if match := theirs.fullmatch(name):
                return tuple(substitute(target, match.groups()) for target in ours)
        return None

    return translate


def missing_modules(parameters: Collection[str], blocks: int) -> list[str]:
    """The modules of a transformer with that many blocks of which no parameter is among the network's names `parameters`."""
    present = {*parameters, *(parameter.rpartition(".")[0] for parameter in parameters)}
    modules = [target.removesuffix(".*") for target in TRANSFORMER.values() if isinstance(target, str)]
    in_blocks = [module for module in modules if module.startswith("blocks.*.")]
    wanted = [module for module in modules if module not in in_blocks]
    wanted += [module.replace("*", str(number), 1) for number in range(blocks) for module in in_blocks]

    def is_present(module: str) -> bool:
        start, star, _ = module.partition("*")
        return any(name.startswith(start) for name in present) if star else module in present

    return [module for module in wanted if not is_present(module)]


def unknown_parameters(parameters: Iterable[str]) -> list[str]:
    """Those of the names `parameters` that no parameter of a transformer has."""
    known = re.compile("|".join(name_regex(target) for target in TRANSFORMER.values() if isinstance(target, str)))
    return [parameter for parameter in parameters if not known.fullmatch(parameter)]


def codec_translator(residual_blocks: int) -> Translate:
    """The translation of the names of Wan's autoencoder.

    Its decoder numbers all modules in one sequence; diffusers numbers them by level. A level has `residual_blocks` + 1 blocks and an upsampler.
    """
    flat = translator(CODEC)

    def translate(name: str) -> Targets | None:
        targets = flat(name)
        if not targets or not targets[0].startswith("decoder.upsamples."):
            return targets
        number, rest = targets[0].removeprefix("decoder.upsamples.").split(".", 1)
        level, position = divmod(int(number), residual_blocks + 2)
        module = f"resnets.{position}" if position <= residual_blocks else "upsamplers.0"
        return (f"decoder.up_blocks.{level}.{module}.{rest}",)

    return translate


def name_regex(theirs: str) -> str:
    """The regular expression of a checkpoint name in a table; `**` matches the rest of a name."""
    return re.escape(theirs).replace(r"\*\*", r"(.+)").replace(r"\*", r"([^.]+)")


def substitute(target: str, parts: tuple[str, ...]) -> str:
    """`target` with its stars replaced by `parts`, in order."""
    fixed = re.split(r"\*+", target)
    return fixed[0] + "".join(part + text for part, text in zip(parts, fixed[1:], strict=True))
