"""The pieces of `other_toolkits.py`: a file for each toolkit, and one for each thing that is measured."""
