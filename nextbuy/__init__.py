"""Will this shopper buy this item in their next session?"""
