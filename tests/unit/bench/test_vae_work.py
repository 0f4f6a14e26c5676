"""The decoder's convolutions, as the network itself calls them."""

from worker.bench.vae_work import decoder_convolutions
from worker.pipeline.config import preset


def test_decoding_a_block_of_the_released_size_takes_21_teraflop_of_convolutions() -> None:
    counted = decoder_convolutions(preset("14b").vae, height=640, width=480, latent_frames=2)
    assert round(sum(one.flop * calls for one, calls in counted.items()) / 1e12) == 21
    largest = max(counted, key=lambda one: one.flop * counted[one])
    assert (largest.channels_in, largest.channels_out, largest.frames) in {(576, 192, 8), (288, 96, 8)}


def test_a_latent_frame_of_a_running_stream_becomes_four_frames() -> None:
    one, two = (decoder_convolutions(preset("tiny").vae, height=64, width=96, latent_frames=n) for n in (1, 2))
    last = [convolution for convolution in one if convolution.channels_out == 3]
    assert [(convolution.frames, convolution.height, convolution.width) for convolution in last] == [(4, 64, 96)]
    assert sum(c.flop * n for c, n in two.items()) == 2 * sum(c.flop * n for c, n in one.items())
