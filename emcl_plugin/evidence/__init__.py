"""Evidence without labels: is there anything to correct, and how far is it trusted?"""
