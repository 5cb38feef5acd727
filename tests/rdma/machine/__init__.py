"""The soft-RoCE machine: Debian's stock kernel in QEMU without KVM, two RoCE devices on one wire.

Standard library only: it must run before anything of the project has been installed.
"""
