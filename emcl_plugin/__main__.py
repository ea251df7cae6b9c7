"""`python -m emcl_plugin` is `emcl-rerank`."""

from emcl_plugin.cli import main

main()
