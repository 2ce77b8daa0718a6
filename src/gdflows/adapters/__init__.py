"""The sharpness monitor inside other people's trainers.

Import the module of the trainer in use: :mod:`gdflows.adapters.lightning` or
:mod:`gdflows.adapters.huggingface`. Each needs the library that it adapts to, and no other.
"""
