"""The reasons for which the service rejects jobs, besides those of every application."""

from tidepool import Reason


class ShopReason(Reason):
    """The reasons of the service: the code that programs see, and a sentence for people."""

    USERNAME_TAKEN = "username_taken", "another user has this username"
    EMAIL_TAKEN = "email_taken", "another user has this email"
    SKU_TAKEN = "sku_taken", "another product has this sku"
    UNKNOWN_USER = "unknown_user", "there is no such user"
    UNKNOWN_PRODUCT = "unknown_product", "there is no such product"
    OUT_OF_STOCK = "out_of_stock", "the product is out of stock"
    INACTIVE_USER = "inactive_user", "the user is not active"
