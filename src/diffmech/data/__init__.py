"""Image sets with their labels and masks: drawn faces, real faces, folders of images."""
