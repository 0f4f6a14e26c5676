"""Where the weights are published: names of repositories (specification, section 2). Knows no file and no network."""

REALVIDEO = "zai-org/RealVideo"
S2V = "Wan-AI/Wan2.2-S2V-14B"
T2V = "Wan-AI/Wan2.1-T2V-1.3B"
T2V_DIFFUSERS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAV2VEC2 = "jonatasgrosman/wav2vec2-large-xlsr-53-english"
