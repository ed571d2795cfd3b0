"""python -m parity_check"""

from parity_check.cli.main import main

main()
