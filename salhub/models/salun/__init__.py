"""SalUn: unlearning that moves only the weights that matter to what is to be forgotten."""
