"""What all commands share: how they register, their options, what they say."""
