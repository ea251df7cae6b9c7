"""What a ranking is worth: metrics, hubness, significance, ablation, comparison."""
