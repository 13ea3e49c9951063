"""The model registry: numbered bases that never change, and one small file that says which of them are served.

A model is only ever taken whole and checked: no reader gets a base with another's rows, however a publish or a switch was interrupted.
"""
