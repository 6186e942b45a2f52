"""Reporting: TensorBoard's dashboards, plots and the progress on the terminal."""
