"""What a run shows: TensorBoard's dashboards, plots and the progress on the terminal."""
