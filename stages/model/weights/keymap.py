"""What upstream's weights are called here.

A table's line names a tensor as its checkpoint does, and then as the network does. `*` stands for one part of a dotted name, `**` for all that
follow, and is carried over. A line with several targets cuts the tensor into as many equal pieces along its first axis; one with none leaves the
tensor out, knowingly. Whatever no line names is unknown.
"""

import re
from collections.abc import Callable, Mapping

Targets = tuple[str, ...]
Translate = Callable[[str], Targets | None]
"""The names a checkpoint's tensor has in the network: one, one per piece, none where it is left out on purpose; None where it is unknown."""

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
"""From Wan2.1's and InfiniteTalk's names to diffusers'. (diffusers' own converter renames by substring, audio attention to text attention.)"""

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
        ("decoder.upsamples.*", "decoder.upsamples.*", RESIDUAL | RESAMPLE),  # numbered anew by `codec_translator`
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
"""transformers put a prefix in front of the vision tower's names before version 5."""

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
"""wav2vec2 as saved from pretraining or with a head, and with the weight norm of older versions of torch."""

SAVED: Table = {"**": "**"}
"""Already by the network's own names."""


def translator(table: Table) -> Translate:
    """Looks names up in `table`; the first line that fits counts."""
    lines = [(re.compile(pattern(theirs)), (ours,) if isinstance(ours, str) else ours) for theirs, ours in table.items()]

    def translate(name: str) -> Targets | None:
        for theirs, ours in lines:
            if match := theirs.fullmatch(name):
                return tuple(carry_over(target, match.groups()) for target in ours)
        return None

    return translate


def codec_translator(residual_blocks: int) -> Translate:
    """Looks names of Wan's autoencoder up.

    Its decoder numbers all modules through; here they are counted by level, which is `residual_blocks`, one more, and an upsampler.
    """
    flat = translator(CODEC)

    def translate(name: str) -> Targets | None:
        targets = flat(name)
        if not targets or not targets[0].startswith("decoder.upsamples."):
            return targets
        number, rest = targets[0].removeprefix("decoder.upsamples.").split(".", 1)
        level, place = divmod(int(number), residual_blocks + 2)
        module = f"resnets.{place}" if place <= residual_blocks else "upsamplers.0"
        return (f"decoder.up_blocks.{level}.{module}.{rest}",)

    return translate


def pattern(theirs: str) -> str:
    """The regular expression of a table's line; `**` stands for the rest of a name."""
    return re.escape(theirs).replace(r"\*\*", r"(.+)").replace(r"\*", r"([^.]+)")


def carry_over(target: str, parts: tuple[str, ...]) -> str:
    """`target` with `parts` in the place of its stars, in order."""
    pieces = re.split(r"\*+", target)
    return pieces[0] + "".join(part + piece for part, piece in zip(parts, pieces[1:], strict=True))
