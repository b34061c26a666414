"""The engine of a check: one shared pass for every observer that is due. It knows observers, not callbacks."""
