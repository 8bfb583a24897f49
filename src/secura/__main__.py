"""`python -m secura`: what launchers of several processes start, such as torchrun and accelerate."""

from secura.cli.app import main

if __name__ == "__main__":
    main()
