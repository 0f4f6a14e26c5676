import numpy as np
import pytest

from tests.unit.training.heard import UNHEARD, unheard
from worker.training import corpus
from worker.training.espeak import Espeak, EspeakUnusable, Phoneme
from worker.training.sentences import HELD_OUT, PHRASES
from worker.training.speaking import TRAINING, speak
from worker.training.speech import CorpusUnreadable, Utterance, read_corpus, write_corpus
from worker.training.visemes import pauses


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    try:
        return Espeak()
    except EspeakUnusable as error:
        pytest.skip(f"speech cannot be made on this machine: {error}")


def _loudness(spoken: Utterance, start_s: float, end_s: float) -> float:
    part = spoken.samples[int(start_s * 16_000) : int(end_s * 16_000)]
    return float(np.sqrt((part**2).mean()))


def test_pauses_between_phonemes_are_silent_in_the_sound() -> None:
    quiet, loud = [], []
    for spoken in unheard():
        for start, end in pauses(spoken.phonemes, duration_s=spoken.duration_s, at_least_s=0.15):
            middle = (start + end) / 2
            quiet.append(_loudness(spoken, middle - 0.03, middle + 0.03))
        vowels = zip(spoken.phonemes, spoken.phonemes[1:], strict=False)
        loud += [_loudness(spoken, p.start_s, after.start_s) for p, after in vowels if p.ipa[:1] in set("aɑeɛoɔ")]
    assert len(quiet) > 10
    assert len(loud) > 100
    assert np.median(quiet) < 0.05 * np.median(loud)
    assert np.mean(np.array(quiet) < 0.2 * np.median(loud)) > 0.9


def test_a_corpus_comes_back_as_it_was_written(tmp_path) -> None:
    file = tmp_path / "some.speech"
    written = unheard()[:3]
    write_corpus(file, written)
    for one, other in zip(written, read_corpus(file), strict=True):
        assert one.voice == other.voice
        assert [p.ipa for p in one.phonemes] == [p.ipa for p in other.phonemes]
        assert max(abs(a.start_s - b.start_s) for a, b in zip(one.phonemes, other.phonemes, strict=True)) < 0.001
        assert np.abs(one.samples - other.samples).max() < 0.001


def test_coding_loses_little_of_the_sound(tmp_path) -> None:
    wave = (0.7 * np.sin(np.arange(16_000) * 0.05)).astype(np.float32)
    write_corpus(tmp_path / "sine.speech", [Utterance("none", wave, (Phoneme(0.0, "a"),))])
    (read,) = read_corpus(tmp_path / "sine.speech")
    noise = read.samples - wave
    assert 10 * np.log10((wave**2).mean() / (noise**2).mean()) > 30


def test_a_file_that_is_no_corpus_is_refused(tmp_path) -> None:
    broken = tmp_path / "broken.speech"
    broken.write_bytes(UNHEARD.read_bytes()[:1000])
    with pytest.raises(CorpusUnreadable):
        read_corpus(broken)


def test_held_out_speech_has_languages_that_are_not_trained_on() -> None:
    spoken = {utterance.voice.partition("+")[0] for utterance in unheard()}
    assert spoken == set(HELD_OUT)
    assert not spoken & set(TRAINING.languages)
    assert not {utterance.voice.partition("+")[2] for utterance in unheard()} & {v[1:] for v in TRAINING.variants}
    assert spoken <= set(PHRASES)


def test_every_trained_voice_speaks_and_a_seed_says_the_same_texts(espeak: Espeak) -> None:
    voices = ["en" + variant for variant in TRAINING.variants] + [language + "+m1" for language in TRAINING.languages]
    for voice in voices:
        assert espeak.say("a", voice=voice, words_per_minute=160, pitch=50).duration_s > 0.05
    first, second = (list(speak(TRAINING, seconds=12, seed=3)) for _ in range(2))
    assert [u.voice for u in first] == [u.voice for u in second]
    assert [[p.ipa for p in u.phonemes] for u in first] == [[p.ipa for p in u.phonemes] for u in second]


def test_an_unknown_voice_is_named(espeak: Espeak) -> None:
    with pytest.raises(EspeakUnusable, match="xx-nowhere"):
        espeak.say("a", voice="xx-nowhere", words_per_minute=160, pitch=50)


@pytest.mark.usefixtures("espeak")
def test_a_corpus_is_the_same_however_many_speak_it(tmp_path) -> None:
    spoken = []
    for processes in ("1", "3"):
        file = tmp_path / f"{processes}.speech"
        assert corpus.main(["--out", str(file), "--minutes", "4.5", "--processes", processes]) == 0
        spoken.append([(u.voice, tuple(p.ipa for p in u.phonemes)) for u in read_corpus(file)])
    assert spoken[0] == spoken[1]
    assert len(set(spoken[0])) == len(spoken[0]) > 20  # no scene says what another one says
