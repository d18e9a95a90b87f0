"""What the losses, the stages and the study cost, beside the tools people would use in their place: `make bench`."""
