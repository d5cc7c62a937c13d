"""The plug-ins that come with binderkit: each imports `binder_core.plugin`, nothing else of ours."""
