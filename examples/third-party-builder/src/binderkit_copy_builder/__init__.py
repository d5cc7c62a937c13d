"""A builder for binderkit that needs nothing but git: its images are tarballs in a folder."""

from binderkit_copy_builder.builder import CopyBuilder, CopySettings

__all__ = ["CopyBuilder", "CopySettings"]
