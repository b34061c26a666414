"""Complete training programs that use convscope's public names alone: ``python -m convscope.recipes.digits``."""
