"""What an effect in percent is the change of."""

# Mean squared error of the predicted noise; on a sampling trajectory, where nobody knows the noise, the mean square
# change of the prediction over its own mean square.
DENOISING_LOSS, OUTPUT_SHIFT = "denoising loss", "output shift"
