# Needs git, make and Python 3.11 or newer; everything else goes into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book test notebooks serve pdf lock clean distclean setup
.DELETE_ON_ERROR:

BOOK := .venv/bin/python tools/book.py

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

book: setup  ## execute what changed, build the pages, print where to open them
	@$(BOOK) build

test: setup  ## everything that can fail: package, notebooks, pages
	@tools/test

notebooks: setup  ## for authors: write the .ipynb beside every chapter
	@$(BOOK) notebooks

serve: book  ## the pages at http://localhost:8000
	@.venv/bin/python -m http.server --directory _build/html 8000

pdf: book  ## the whole book as one PDF, numbered and linked (needs Chromium)
	@$(BOOK) pdf

lock:  ## for authors: requirements.lock anew, from the pins of requirements.txt
	@python3 tools/lock.py

clean:  ## forget everything built and executed
	rm -rf _build book/appendix/generated

distclean: clean  ## and the virtual environment
	rm -rf .venv

setup: .venv/ready

.venv/ready: requirements.txt requirements.lock pyproject.toml tools/setup
	@tools/setup
