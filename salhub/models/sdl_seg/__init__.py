"""SDL-Seg: markers on a CT say where to look, and a U-Net says what belongs to the tumour bed."""
