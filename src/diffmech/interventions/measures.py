"""What effects are the change of, and the dose at which all of a difference is patched in."""

# Mean squared error of the predicted noise; on a sampling trajectory, where nobody knows the noise, the mean square
# change of the prediction over its own mean square.
DENOISING_LOSS, OUTPUT_SHIFT = "denoising loss", "output shift"
FULL_DOSE = 1.0
