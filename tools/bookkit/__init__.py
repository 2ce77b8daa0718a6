"""What builds and checks the book. `tools/book.py` is the command line.

chapters   which pages there are, their code cells, the repository's address
reader     the environment a reader on Colab has, imitated
execute    runs what changed, once, through nbval
capture    the pytest plugin that keeps what nbval saw
build      the HTML pages
plain      Sphinx extension: the same pages as plain-Markdown notebooks
notebooks  writes and checks the notebooks beside the chapters
"""
