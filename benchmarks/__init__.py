"""The command behind each published figure; every script writes its own block of docs/results.md."""
