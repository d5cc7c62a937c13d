"""The plug-ins of binderkit. Each imports `binder_core.plugin` and nothing else of ours."""
