"""Full names (`view__feature`) of the features that code outside this folder speaks of by name."""

from nextbuy.features import item, session, user, user_item

USER_SESSIONS = user.TABLE.full_name("n_sessions")
ENTRY_HOUR = session.TABLE.full_name("entry_hour")
ENTRY_WEEKDAY = session.TABLE.full_name("entry_weekday")
ITEM_CATEGORY = item.TABLE.full_name("category")
ITEM_PURCHASES_30D = item.TABLE.full_name("n_purchases_30d")
IS_IN_CART = user_item.TABLE.full_name("is_in_cart")
FIRST_POSITION = user_item.TABLE.full_name("first_position_session")
SECONDS_SINCE_TOUCH = user_item.TABLE.full_name("seconds_since_touch")
USER_ITEM_VIEWS = user_item.TABLE.full_name("n_views")
