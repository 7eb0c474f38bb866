"""What is measured of a model and shown to people: charts, reports, comparisons."""
