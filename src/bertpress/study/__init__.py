"""Many runs side by side: what they say together that one alone cannot."""
