"""What people look at: a page an inspection and one for the batch, which open from disk with no server or network."""
