"""Everything that scores: pairs, frames, videos and the HTTP service. Needs neither torch nor timm."""
