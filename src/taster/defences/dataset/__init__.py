"""Defences of training sets, one file each."""
