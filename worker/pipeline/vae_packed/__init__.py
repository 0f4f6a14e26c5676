"""The VAE's decoder arranged for a GPU: frames in rows of channels, and only convolutions, products and one row kernel.

Knows the numbers of diffusers' decoder and computes the same, several frames in one call. Runs on any device in plain
torch, which is how it is proven; on a GPU its row operations are Triton kernels.
"""
