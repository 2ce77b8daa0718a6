"""What builds and checks the book. `tools/book.py` is the command line.

chapters   which pages there are, their code cells, the repository's address
reader     the environment a reader on Colab has, imitated
execute    runs what changed, once, through nbval
capture    the pytest plugin that keeps what nbval saw
progress   a line for each chapter that is done, and when the rest will be
report     what the executions came to: failures, differences, times
build      the HTML pages
failed     Sphinx extension: the page of a chapter that failed says so
plain      Sphinx extension: the same pages as plain-Markdown notebooks
notebooks  writes and checks the notebooks beside the chapters
files      files that are there whole or not at all
"""
