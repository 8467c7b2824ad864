"""A hostile review of a task: how could a harness score without doing the work?"""
