"""What only a CPU needs: convolutions in the forms that XLA's CPU backend runs fast."""
