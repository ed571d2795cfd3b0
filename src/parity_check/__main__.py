"""python -m parity_check"""

from parity_check.cli import main

main()
