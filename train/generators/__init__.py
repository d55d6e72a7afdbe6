"""Models that generate images, trained on the user's images first.

diffusion     a built-in diffusion model, or Stable Diffusion, behind one interface
latent_pair   encoder and generator: images to latents and back
dcgan         a GAN
cvae          a conditional variational autoencoder
grid          rows of images as one PNG
convolutions  layers that they share
"""
