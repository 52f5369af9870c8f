"""Speech to learn from: espeak-ng voices, the sounds of no speech, and how far a mouth opens for either."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, resample_poly, sosfiltfilt

from infinitedub.stages.listen.loudness import measure_loudness, normalize_loudness
from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SAMPLE_RATE

Sound = NDArray[np.float32]  # mono at SAMPLE_RATE
Curve = NDArray[np.float64]  # one value per film frame

TARGET_LUFS = -23.0  # what the product brings every voice to before it is heard
ESPEAK_RATE = 22_050

TRAINING_VOICES = (
    *("en-us+m1", "en-us+f2", "en-gb+m3", "en-gb-scotland+f4", "de+m2", "fr-fr+f1", "es+m4", "it+f3", "nl+m5", "pt-br+f5", "pl+m6", "sv+f2"),
    *("ru+m7", "tr+f1", "ro+m8", "fi+f4", "hu+m1", "cs+f3", "el+m3", "id+f5", "en-us+Alicia", "en-us+adam", "en-us+Andy", "en-029+belinda"),
    *("sw+f2", "en-us+max", "en-us+linda", "hr+m4", "sk+f1", "af+m2"),
)
UNSEEN_VOICES = (  # neither these timbres nor, but for en-us, these languages are among those above; espeak-ng takes no timbre for en-gb and fr-fr
    *("en-us+Annie", "en-us+Mike", "da+Denis", "vi+steph", "cy+robert", "lt+Alex"),
    *("lv+aunty", "et+edward", "ca+Andrea", "sq+Michael", "is+shelby", "nb+norbert"),
)

TRAINING_LINES = (
    "The harbour was quiet until the ferry came in and everybody started to talk at once.",
    "Could you bring me a bowl of warm water, a towel, and the small blue bottle?",
    "Eleven people waited outside; nobody knew when the doors would open.",
    "My aunt makes plum jam every August, and we eat it until March.",
    "No. No, I said no! Well... maybe. All right, yes.",
    "Above the valley the eagles move in slow, wide, patient circles.",
    "Please keep your tickets, mind the gap, and have a pleasant journey home.",
    "Five, four, three, two, one, and off we go across the open plain.",
    "Una manzana, dos peras y muchas uvas para la familia entera.",
    "Le matin, nous mangeons du pain avec du beurre et de la confiture.",
    "Am Abend sitzen wir auf dem Balkon und reden über alles Mögliche.",
    "Oh wow, look at that! A whole meadow of yellow flowers, who would have thought?",
    "Sooner or later the river finds the sea, said the miller, and poured more tea.",
    "We measured it twice, cut it once, and it still did not fit.",
    "Good morning. Here is the weather: rain, then wind, then a little more rain.",
    "Mama moved many more marbles from my room on Monday morning.",
    "Peppers and papayas, bananas and berries, apples and apricots.",
    "He laughed, hahaha, and she laughed too, and then there was a long silence.",
    "Sixty-six silver spoons shone softly on the silk.",
    "Ah, there you are. I have been looking for you all over the house.",
)
UNSEEN_LINES = (
    "The last train leaves at nine, so please do not be late this time.",
    "Our neighbour owns an old piano, and on Sundays the whole street may listen.",
    "Hold on. What did you say? Really? That is the best news of the year!",
    "Between the two islands the water is shallow, green, and warm as milk.",
)


@dataclass(frozen=True)
class Utterance:
    """A sound as the speech encoder hears it, and what a mouth does to it."""

    sound: Sound
    openness: Curve  # 0 shut to 1 wide open
    width: Curve  # 0 round to 1 broad


def training_corpus(seed: int, per_voice: int = 9) -> Iterator[Utterance]:
    """Speech of all training voices in random pitch, speed and rooms, and sounds of no speech, which leave the mouth shut."""
    rng = np.random.default_rng(seed)
    for voice in TRAINING_VOICES:
        for _ in range(per_voice):
            lines = rng.choice(TRAINING_LINES, 1 + (rng.random() < 0.5), replace=False)
            speech = np.concatenate([speak(voice, line, int(rng.integers(20, 85)), int(rng.integers(110, 215))) for line in lines])
            if len(speech) >= SAMPLE_RATE:
                yield in_a_room(rng, with_pauses(rng, speech))
    for _ in range(len(TRAINING_VOICES)):
        yield no_speech(rng)


def unseen_utterance(index: int, seconds: float) -> Utterance:
    """Speech of a voice and a line that training never hears."""
    rng = np.random.default_rng(77_000 + index)
    voice = UNSEEN_VOICES[index % len(UNSEEN_VOICES)]
    lines = rng.permutation(UNSEEN_LINES)
    speech = np.concatenate([speak(voice, line, int(rng.integers(30, 70)), int(rng.integers(130, 190))) for line in lines])
    return heard(speech[: int(seconds * SAMPLE_RATE)])


def speak(voice: str, line: str, pitch: int, words_per_minute: int) -> Sound:
    """What espeak-ng says."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout", line]
    wave = subprocess.run(command, capture_output=True, check=True).stdout[44:]
    samples = np.frombuffer(wave[: len(wave) // 2 * 2], np.int16).astype(np.float32) / 32768
    return resample_poly(samples, SAMPLE_RATE // 50, ESPEAK_RATE // 50).astype(np.float32)


def with_pauses(rng: np.random.Generator, speech: Sound) -> Sound:
    """The speech, often with silence put in at random places."""
    for _ in range(int(rng.integers(0, 3))):
        at = int(rng.uniform(0, len(speech)))
        speech = np.concatenate([speech[:at], np.zeros(int(rng.uniform(0.3, 1.5) * SAMPLE_RATE), np.float32), speech[at:]])
    return speech


def in_a_room(rng: np.random.Generator, speech: Sound) -> Utterance:
    """The speech through a random microphone, in a random room, with some noise. The mouth moves to the speech alone."""
    if rng.random() < 0.7:  # a microphone with bumps of 10 dB
        spectrum = np.fft.rfft(speech)
        bumps = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 5) ** 1.5, rng.uniform(-10, 10, 5))
        speech = np.fft.irfft(spectrum * 10 ** (bumps / 20), len(speech)).astype(np.float32)
    if rng.random() < 0.3:
        length = int(rng.uniform(0.05, 0.2) * SAMPLE_RATE)
        echo = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length) * rng.uniform(0.02, 0.06)
        echo[0] = 1
        speech = fftconvolve(speech, echo)[: len(speech)].astype(np.float32)
    clean = heard(speech)
    noise = rng.standard_normal(len(clean.sound)) * 10 ** (rng.uniform(-80, -48) / 20) * (rng.random() < 0.6)
    return Utterance((clean.sound + noise).astype(np.float32), clean.openness, clean.width)


def no_speech(rng: np.random.Generator) -> Utterance:
    """Hiss, hum or nothing, at any level up to that of speech: noise alone is brought to a voice's loudness before it is heard."""
    samples = int(rng.uniform(3, 8) * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    colour = np.linspace(1, SAMPLE_RATE / 2, len(spectrum)) ** rng.uniform(-0.7, 0.2)
    noise = np.fft.irfft(spectrum * colour, samples)
    noise *= 10 ** (rng.choice([-120, -80, -60, -45, -30, -23]) / 20) / noise.std()
    shut = np.zeros(samples // FRAME_SAMPLES)
    return Utterance(noise.astype(np.float32), shut, shut + 0.5)


def heard(speech: Sound) -> Utterance:
    """Clean speech at the loudness at which the encoder hears it, and the mouth to it."""
    sound = normalize_loudness(speech, measure_loudness(speech, SAMPLE_RATE), TARGET_LUFS)
    return Utterance(sound, *mouth(sound))


def mouth(sound: Sound) -> tuple[Curve, Curve]:
    """Openness and width, each 0 to 1, for each film frame of clean speech at TARGET_LUFS.

    Openness follows the energy of the vowels (150 to 2000 Hz) between -40 and -15 dB; width the balance of the second formant against the first.
    """
    frames = len(sound) // FRAME_SAMPLES
    opening = np.clip((decibels(band(sound, 150, 2000), frames) + 40) / 25, 0, 1) ** 1.2
    balance = decibels(band(sound, 1700, 3600), frames, 1e-7) - decibels(band(sound, 200, 900), frames, 1e-7)
    spoken = np.clip(3 * opening, 0, 1)
    width = 0.5 + (np.clip((balance + 25) / 25, 0, 1) - 0.5) * spoken
    return smoothed(opening), smoothed(width)


def band(sound: Sound, low: float, high: float) -> Curve:
    return sosfiltfilt(butter(4, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), sound)


def decibels(sound: Curve, frames: int, floor: float = 1e-9) -> Curve:
    """The power of each frame, over 70 ms around its middle."""
    window = np.hanning(round(0.07 * SAMPLE_RATE))
    power = fftconvolve(np.square(sound, dtype=np.float64), window / window.sum(), mode="same")
    middles = ((np.arange(frames) + 0.5) * FRAME_SAMPLES).astype(int)
    return 10 * np.log10(np.maximum(power[middles], 0) + floor)


def smoothed(curve: Curve) -> Curve:
    """The curve without what mouths do not do: their area changes at 2 to 7 Hz (Chandrasekaran et al. 2009, doi:10.1371/journal.pcbi.1000436)."""
    return np.convolve(np.pad(curve, 2, mode="edge"), np.array([1, 4, 6, 4, 1]) / 16, "valid")
