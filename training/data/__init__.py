"""Datasets: embedded digits, MNIST, arrays, folders, pairs."""
