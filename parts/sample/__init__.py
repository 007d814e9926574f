"""The sample collection that `manage.py load_sample` makes from `sample_data/`."""
