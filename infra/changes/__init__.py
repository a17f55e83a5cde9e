"""The life of a definition: what a change in the folder means, building it beside what is live, switching, going back."""
