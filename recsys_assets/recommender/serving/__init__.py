"""What users are shown: lists for everybody, newcomers included."""
