"""Checks: each file measures one thing on every rank and judges it by all ranks' facts."""
