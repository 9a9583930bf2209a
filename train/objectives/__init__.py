"""What each stage of training optimises, one file a stage."""
