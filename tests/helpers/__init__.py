"""What tests share: canned reports, fake engines, synthetic data."""
