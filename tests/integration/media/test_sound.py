"""Customers' sounds in every format that is taken, and every way in which they can be wrong."""

import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.media_files import Samples, clicks, convert, decoded, make, onsets, sine, write_wav
from worker.media.errors import FfmpegTimedOut, MediaError, MediaErrorCode
from worker.media.limits import MediaLimits
from worker.media.sound import Sound, decode_sound
from worker.media.speech import SPEECH_RATE, SpeechFile

CLICKS = [0.25, 1.0, 1.6]


def decode(source: Path, *, limits: MediaLimits | None = None) -> Sound:
    """Into a directory of its own beside the source."""
    into = Path(tempfile.mkdtemp(dir=source.parent, prefix="decoded-"))
    return decode_sound(source, sound=into / "sound.wav", speech=into / "speech.f32", limits=limits or MediaLimits())


def code_of(source: Path, *, limits: MediaLimits | None = None) -> MediaErrorCode:
    with pytest.raises(MediaError) as caught:
        decode(source, limits=limits)
    assert caught.value.message.endswith(".")
    return caught.value.code


def speech_of(sound: Sound) -> Samples:
    with SpeechFile(sound.speech) as file:
        return file.read(10**7).astype(np.float64)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "original.wav", clicks(2.0, rate=48_000, at_s=CLICKS), rate=48_000)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", []),
        ("a24.wav", ["-c:a", "pcm_s24le"]),
        ("float.wav", ["-c:a", "pcm_f32le"]),
        ("a.mp3", ["-b:a", "128k"]),
        ("bare.mp3", ["-write_xing", "0"]),
        ("a.flac", []),
        ("a.m4a", []),
        ("a.aac", []),
        ("a.ogg", []),
        ("a.opus", []),
        ("a.webm", []),
        ("a.mkv", ["-c:a", "flac"]),
    ],
)
def test_every_format_is_decoded_with_its_clicks_where_they_were(
    original: Path, tmp_path: Path, name: str, options: list[str]
) -> None:
    sound = decode(convert(original, tmp_path / name, *options))
    assert sound.duration_s == pytest.approx(2.0, abs=0.06)  # bare AAC and MP3 keep their encoder's delay
    assert sound.sample_rate == 48_000
    late = 0.05 if name in ("a.aac", "bare.mp3") else 0.012
    for heard in (
        onsets(speech_of(sound).astype(np.float32), rate=SPEECH_RATE),
        onsets(decoded(sound.sound, rate=48_000)[:, 0], rate=48_000),
    ):
        assert heard == pytest.approx(CLICKS, abs=late)


def test_both_files_hold_the_same_moment_at_the_same_time(original: Path, tmp_path: Path) -> None:
    sound = decode(convert(original, tmp_path / "a.mp3", "-write_xing", "0"))
    speech = onsets(speech_of(sound).astype(np.float32), rate=SPEECH_RATE)
    track = onsets(decoded(sound.sound, rate=48_000)[:, 0], rate=48_000)
    assert speech == pytest.approx(track, abs=0.001)
    assert len(speech_of(sound)) / SPEECH_RATE == pytest.approx(sound.duration_s, abs=0.001)


def test_a_track_that_begins_later_than_its_video_keeps_the_pause_before_it(original: Path, tmp_path: Path) -> None:
    video = make(
        tmp_path / "late.mkv", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10:duration=3",
        "-itsoffset", "0.5", "-i", str(original), "-map", "0:v", "-map", "1:a", "-c:v", "libx264", "-c:a", "flac",
    )  # fmt: skip
    sound = decode(video)
    assert sound.duration_s == pytest.approx(2.5, abs=0.01)
    assert onsets(speech_of(sound).astype(np.float32), rate=SPEECH_RATE) == pytest.approx(
        [time + 0.5 for time in CLICKS], abs=0.005
    )


def test_a_sound_keeps_its_channels_up_to_two_and_its_rate(tmp_path: Path) -> None:
    left, right = sine(1, rate=44_100, hertz=12_000), sine(1, rate=44_100, hertz=500)
    sound = decode(write_wav(tmp_path / "stereo.wav", np.stack([left, right], axis=1), rate=44_100))
    assert (sound.sample_rate, sound.channels) == (44_100, 2)
    kept = decoded(sound.sound, rate=44_100, channels=2)
    np.testing.assert_allclose(kept[:, 0], left, atol=1e-3)
    np.testing.assert_allclose(kept[:, 1], right, atol=1e-3)


def test_six_channels_become_two(tmp_path: Path) -> None:
    six = np.stack([sine(0.5, rate=48_000)] * 6, axis=1)
    assert decode(write_wav(tmp_path / "surround.wav", six, rate=48_000)).channels == 2


def test_the_sound_of_a_video_is_its_first_track(tmp_path: Path) -> None:
    first = write_wav(tmp_path / "1.wav", sine(1, rate=48_000), rate=48_000)
    second = write_wav(tmp_path / "2.wav", np.stack([sine(2, rate=48_000)] * 2, axis=1), rate=48_000)
    video = make(
        tmp_path / "two.mkv", "-i", str(first), "-i", str(second), "-map", "0:a", "-map", "1:a", "-c:a", "flac"
    )
    assert decode(video).duration_s == pytest.approx(1.0, abs=0.001)


def test_speech_is_read_in_pieces_to_its_end(original: Path) -> None:
    sound = decode(original)
    with SpeechFile(sound.speech) as file:
        assert (file.samples, file.duration_s) == (32_000, 2.0)
        pieces = [file.read(10_000) for _ in range(5)]
    assert [len(piece) for piece in pieces] == [10_000, 10_000, 10_000, 2_000, 0]
    assert all(piece.dtype == np.float32 for piece in pieces)


def test_an_empty_file_is_named_empty(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert code_of(tmp_path / "a.wav") is MediaErrorCode.AUDIO_EMPTY


def test_a_wav_without_samples_is_named_empty(tmp_path: Path) -> None:
    assert code_of(write_wav(tmp_path / "a.wav", np.zeros(0), rate=16_000)) is MediaErrorCode.AUDIO_EMPTY


@pytest.mark.parametrize(
    "content", [b"hello, this is no sound at all\n" * 50, b"%PDF-1.7\n" + bytes(2000), b"\0" * 5000, b"R"]
)
def test_a_file_that_is_no_sound_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp3").write_bytes(content)
    assert code_of(tmp_path / "a.mp3") is MediaErrorCode.AUDIO_UNREADABLE


def test_random_bytes_are_never_taken_for_speech(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(os.urandom(50_000))
    with pytest.raises(MediaError):
        decode(tmp_path / "a.mp3")


def test_a_picture_is_no_sound(tmp_path: Path) -> None:
    make(tmp_path / "a.png", "-f", "lavfi", "-i", "testsrc2=size=64x64:duration=0.1", "-frames:v", "1")
    assert code_of(tmp_path / "a.png") is MediaErrorCode.AUDIO_UNREADABLE


def test_a_video_without_sound_is_named_so(tmp_path: Path) -> None:
    make(tmp_path / "mute.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x64:duration=1", "-pix_fmt", "yuv420p")
    assert code_of(tmp_path / "mute.mp4") is MediaErrorCode.AUDIO_MISSING


def test_fifty_milliseconds_are_too_short(tmp_path: Path) -> None:
    assert code_of(write_wav(tmp_path / "a.wav", sine(0.05, rate=16_000), rate=16_000)) is (
        MediaErrorCode.AUDIO_TOO_SHORT
    )
    assert decode(write_wav(tmp_path / "b.wav", sine(0.1, rate=16_000), rate=16_000)).duration_s == 0.1


def test_a_sound_over_the_limit_is_too_long_and_not_decoded_to_its_end(tmp_path: Path) -> None:
    source = convert(write_wav(tmp_path / "a.wav", sine(30, rate=16_000), rate=16_000), tmp_path / "a.mp3")
    assert code_of(source, limits=MediaLimits(max_duration_s=5.0)) is MediaErrorCode.AUDIO_TOO_LONG
    [speech] = tmp_path.rglob("speech.f32")
    assert speech.stat().st_size <= 6.1 * SPEECH_RATE * 4


def test_silence_is_refused_with_or_without_an_offset(tmp_path: Path) -> None:
    assert code_of(write_wav(tmp_path / "a.wav", np.zeros(16_000), rate=16_000)) is MediaErrorCode.AUDIO_SILENT
    assert code_of(write_wav(tmp_path / "b.wav", np.full(16_000, 0.25), rate=16_000)) is MediaErrorCode.AUDIO_SILENT


def test_a_long_pause_before_a_quiet_word_is_not_silence(tmp_path: Path) -> None:
    quiet = np.concatenate([np.zeros(48_000), sine(0.2, rate=16_000, level=0.004), np.zeros(16_000)])
    assert decode(write_wav(tmp_path / "a.wav", quiet, rate=16_000)).duration_s == pytest.approx(4.2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    samples = sine(3, rate=16_000).astype("<f4")
    samples[8000] = bad
    data = samples.tobytes()
    form = struct.pack("<IHHIIHH", 16, 3, 1, 16_000, 64_000, 4, 32)  # floats, mono, 16 kHz
    header = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data))
    (tmp_path / "a.wav").write_bytes(header + data)
    assert code_of(tmp_path / "a.wav") is MediaErrorCode.AUDIO_INVALID


@pytest.mark.parametrize(("name", "options"), [("a.flac", []), ("a.m4a", ["-movflags", "+faststart"])])
def test_a_file_that_was_cut_off_on_its_way_is_refused_and_not_dubbed_short(
    tmp_path: Path, name: str, options: list[str]
) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 16_000 * 6)
    whole = convert(write_wav(tmp_path / "w.wav", noise, rate=16_000), tmp_path / name, *options)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert code_of(whole) is MediaErrorCode.AUDIO_TRUNCATED


def test_a_playlist_named_like_a_sound_cannot_read_another_file(tmp_path: Path) -> None:
    secret = write_wav(tmp_path / "secret.wav", sine(1, rate=16_000), rate=16_000)
    for name, playlist in {
        "hls.mp3": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat.mp3": f"ffconcat version 1.0\nfile '{secret}'\n",
        "dash.mp3": f"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>file://{secret}</BaseURL></MPD>",
        "sdp.mp3": "v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    }.items():
        (tmp_path / name).write_text(playlist)
        assert code_of(tmp_path / name) is MediaErrorCode.AUDIO_UNREADABLE, name


@pytest.mark.parametrize("name", ["concat:a|b", "-i", "pipe:0", "http:x", "a%03d.wav", "ä 'b\".wav"])
def test_a_name_that_looks_like_a_protocol_or_an_option_is_only_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_wav(tmp_path / name, sine(0.2, rate=16_000), rate=16_000)
    monkeypatch.chdir(tmp_path)
    sound = decode_sound(Path(name), sound=Path("-y"), speech=Path("speech.f32"), limits=MediaLimits())
    assert sound.duration_s == pytest.approx(0.2)


def test_a_decoder_that_takes_too_long_is_ended(original: Path) -> None:
    with pytest.raises(FfmpegTimedOut):
        decode(original, limits=MediaLimits(decode_wall_s=0.001))
