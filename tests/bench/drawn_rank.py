"""A rank with the real network of any preset and drawn weights, for measurements where no files are at hand."""

import os
import sys

from worker.group.rank import main

if __name__ == "__main__":
    from worker.bench.stand_ins import weights_from, with_byte_tokenizer
    from worker.group import renderer
    from worker.pipeline.config import preset

    # a worker refuses to ship noise; here it is what we want
    renderer._weights = lambda launch: weights_from(launch.weights)
    renderer.preset = lambda name: with_byte_tokenizer(preset(name))  # type: ignore[attr-defined]
    os._exit(main(sys.argv[1:], open_renderer=renderer.open_pipeline))
