"""Verdict and advice on the pool's size, and the models behind them."""
